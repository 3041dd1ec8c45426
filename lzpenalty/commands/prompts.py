"""Questions that drive a small model, decoded greedily, into loops: those of the demo and the examples."""

PROMPTS = [
    "How many prime numbers are there below 100? Think step by step.",
    "Write a poem about the sea with eight verses.",
    "Explain how a suspension bridge carries its load.",
    "Prove that the square root of 2 is irrational.",
    "Tell me a long story about a lighthouse keeper.",
    "How do I sort a linked list? Show the code and discuss it.",
]
