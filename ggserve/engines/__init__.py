"""Token ids to tokens: the contract, the choice of engine, what engines share, and a folder for each."""
