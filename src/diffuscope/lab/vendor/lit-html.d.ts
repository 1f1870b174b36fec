/** What the page uses of lit-html, for the type checker. */
export type TemplateResult = { readonly strings: TemplateStringsArray; readonly values: readonly unknown[] };
export function html(strings: TemplateStringsArray, ...values: unknown[]): TemplateResult;
export function svg(strings: TemplateStringsArray, ...values: unknown[]): TemplateResult;
export function render(value: unknown, container: HTMLElement): unknown;
export const nothing: symbol;
