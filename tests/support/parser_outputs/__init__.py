"""Outputs of models, as the engines' parsers of tool calls and of reasoning read them."""
