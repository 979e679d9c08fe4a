"""Merges of Hugging Face directories, tensor by tensor. Imports torch and safetensors only."""
