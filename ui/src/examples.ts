// What forms begin with, for the packaged vectors of the embedded model; for others, people say it themselves.

export interface SweepExample {
  prompts: string[];
  positive: string[];
  negative: string[];
}

const PROMPTS = [
  "I think the movie was", "The weather today is", "Today the music was", "The day was", "The game this morning was",
  "I think the concert today is", "We talked about the essay. It was", "We went to the hotel. The pool was",
];

export const SWEEPS: Record<string, SweepExample> = {
  happy: {
    prompts: PROMPTS,
    positive: [" wonderful", " great", " good", " lovely"],
    negative: [" terrible", " awful", " bad", " boring"],
  },
  formal: {
    prompts: ["The song is", "The hotel is", "Today the lesson was", "I think the soup is", "The match was", "The room is"],
    positive: [" rather", " truly"],
    negative: [" super", " totally"],
  },
};

export const ABLATION = {
  prompts: ["I love this song. The singer was", "I love this novel. The writer was", "I loved this soup. The cook was"],
  target: " wonderful",
  foil: " terrible",
};

export const EXTRACTION = {
  name: "rainy",
  positive: ["It rained all day. The sky was grey", "The storm was cold and wet", "We walked home in the rain"],
  negative: ["The sun shone all day. The sky was blue", "The day was warm and dry", "We walked home in the sun"],
};
