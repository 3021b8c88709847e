"""Where a model file comes from: a path, a folder, a hub repository, the default package."""
