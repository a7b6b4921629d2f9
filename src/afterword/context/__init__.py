"""What an LLM is given of the memory: the hits that fit, what stands beside them, the standing facts, told with dates.

`briefing` puts it together, `relevance` says what fits, `lasting` and `standing` what always comes along, `text` and
`wording` how it is told.
"""
