"""The source of a model file: a path, a folder, a hub repository, or the default package."""
