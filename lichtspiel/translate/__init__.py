"""A video in another language: what is said is heard, translated, spoken and laid in (`workflows.translate`).

Three functions with plugs: `hear` (sound to timed words), `translators` (text to text), `speak` (text to sound). Around
them, `lines` makes sentences of words, `timing` fits spoken lines into their time, `mix` lays a voice over a sound, and
`subtitles` cuts lines into what people can read. Nothing here writes videos, knows the policy, or uses the network
unless an endpoint is named.
"""
