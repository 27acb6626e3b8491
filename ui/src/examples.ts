// What forms begin with, for the packaged vectors of the embedded model; for others, people say it themselves.

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
