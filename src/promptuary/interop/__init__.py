"""To and from what others use: adapters of PEFT, requests of a vLLM."""
