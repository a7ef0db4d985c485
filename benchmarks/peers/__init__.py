"""The same inputs through PEFT and through promptuary, each judged against the bare model of transformers."""
