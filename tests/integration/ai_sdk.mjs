// What a program on the AI SDK does with our server: images, an edit, an error. Prints JSON of what it got.

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateImage } from 'ai';

const [address, apiKey, picture] = process.argv.slice(1);
const model = createOpenAICompatible({ name: 'ours', baseURL: `${address}/v1`, apiKey }).imageModel('tiny');
const make = async (options) => {
  const { images, warnings } = await generateImage({ model, maxRetries: 0, ...options });
  return { images: images.map(({ base64, mediaType }) => ({ base64, mediaType })), warnings };
};
const refused = async (options) => {
  const error = await make(options).then(() => null, (found) => found);
  return { name: error?.name, status: error?.statusCode, message: error?.message };
};

const providerOptions = { ours: { seed: 5, num_inference_steps: 3 } };
console.log(
  JSON.stringify({
    generated: await make({ prompt: 'a fox', n: 2, size: '32x32', providerOptions }),
    edited: await make({ prompt: { text: 'a cup', images: [picture] }, size: '32x32', providerOptions }),
    refused: await refused({ prompt: 'a fox', size: '9999x32' }),
  }),
);
