"""One prompt that several tasks share: `plan` describes it, `tuning` tunes it on a mixture of their rows."""
