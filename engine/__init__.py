"""Token ids to tokens: the Engine protocol, engines, sampling, stop conditions. Knows no HTTP, no templates."""
