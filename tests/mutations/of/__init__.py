"""The mutations, by the folder of the code that they edit."""
