"""ComfyUI's graph of nodes: the sampler that made the image, and what leads to it."""

from collections.abc import Iterator, Mapping
from typing import Any

from diffuscope.metadata.settings import Settings, number, text, whole

Graph = Mapping[str, Any]

_SAMPLER = {
    "seed": ("seed", whole),
    "noise_seed": ("seed", whole),
    "steps": ("num_inference_steps", whole),
    "cfg": ("guidance_scale", number),
    "sampler_name": ("sampler", text),
}
_LATENTS = {"width": ("width", whole), "height": ("height", whole), "batch_size": ("num_images_per_prompt", whole)}


def parse(graph: Graph) -> Settings:
    """The settings of the last sampler in a graph; inputs of nodes that no option takes are left under their node."""
    settings = Settings("ComfyUI")
    used: set[tuple[str, str]] = set()
    last = next(iter(_samplers(graph)), None)
    if last is not None:
        _take_sampler(graph, last, settings, used)
    for name, node in graph.items():
        for key, value in _inputs(node).items():
            if not _is_link(graph, value) and (name, key) not in used:
                settings.leave(f"{_kind(node) or 'node'} {name} {key}", value)
    return settings


def _take_sampler(graph: Graph, name: str, settings: Settings, used: set[tuple[str, str]]) -> None:
    inputs = _inputs(graph[name])

    def use(node: str, names: Mapping[str, Any]) -> None:
        values = {key: value for key, value in _inputs(graph[node]).items() if key in names}
        plain = {key: _followed(graph, value) for key, value in values.items()}
        settings.take_all(plain, names)
        used.update((node, key) for key in values)

    for option, key in (("prompt", "positive"), ("negative_prompt", "negative")):
        for node in _upstream(graph, inputs.get(key), {"conditioning"}):
            if (words := _followed(graph, _inputs(graph[node]).get("text"))) is not None and isinstance(words, str):
                settings.take(option, key, words)
                used.add((node, "text"))
                break
    settings.options.setdefault("prompt", "")
    settings.take_syntax("comfyui")
    use(name, _SAMPLER)
    settings.take_spacing("scheduler", inputs.get("scheduler", "normal"))
    used.add((name, "scheduler"))
    if (strength := number(inputs.get("denoise"))) is not None:
        used.add((name, "denoise"))
        if strength < 1:
            settings.take("strength", "denoise", strength)
            settings.notes.append("it was made from another image, which --image needs")
    for node in _upstream(graph, inputs.get("latent_image"), {"samples"}):
        if "width" in _inputs(graph[node]):
            use(node, _LATENTS)
    for node in _upstream(graph, inputs.get("model"), {"model"}):
        _take_model(graph, node, settings, used)


def _take_model(graph: Graph, node: str, settings: Settings, used: set[tuple[str, str]]) -> None:
    inputs = _inputs(graph[node])
    for key in ("ckpt_name", "unet_name"):
        if isinstance(inputs.get(key), str):
            settings.take("model", key, inputs[key].replace("\\", "/"))
            used.add((node, key))
    if isinstance(inputs.get("lora_name"), str):
        settings.take_lora("lora_name", inputs["lora_name"].replace("\\", "/"), inputs.get("strength_model", 1.0))
        used |= {(node, "lora_name"), (node, "strength_model")}
        if inputs.get("strength_clip") == inputs.get("strength_model"):
            used.add((node, "strength_clip"))


def _samplers(graph: Graph) -> Iterator[str]:
    """The nodes that sample: those whose latents no other sampler takes up first."""
    names = [name for name, node in graph.items() if "steps" in _inputs(node) and "latent_image" in _inputs(node)]
    taken = {
        above
        for name in names
        for above in _upstream(graph, _inputs(graph[name]).get("latent_image"), None)
        if above in names
    }
    yield from (name for name in names if name not in taken)
    yield from (name for name in names if name in taken)


def _upstream(graph: Graph, link: Any, through: set[str] | None) -> Iterator[str]:
    """The node that ``link`` leads to and those above it, along inputs of these names (None is all); each once."""
    seen: set[str] = set()
    waiting = [link]
    while waiting:
        link = waiting.pop(0)
        if not _is_link(graph, link) or (name := str(link[0])) in seen:
            continue
        seen.add(name)
        yield name
        waiting += [value for key, value in _inputs(graph[name]).items() if through is None or key in through]


def _followed(graph: Graph, value: Any) -> Any:
    """A value, or that of the node which a link leads to: nodes that hold one text or number."""
    for _ in range(16):
        if not _is_link(graph, value):
            return value
        inputs = list(_inputs(graph[str(value[0])]).values())
        value = inputs[0] if len(inputs) == 1 else None
    return None


def _is_link(graph: Graph, value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and str(value[0]) in graph


def _inputs(node: Any) -> Mapping[str, Any]:
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}


def _kind(node: Any) -> str:
    return text(node.get("class_type")) or "" if isinstance(node, Mapping) else ""
