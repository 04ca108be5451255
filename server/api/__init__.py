"""HTTP: routes and schemas only. A validated body goes in, one service call, a response model comes out."""
