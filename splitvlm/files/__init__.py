"""Files that people give: text, paths, pictures. Everything is checked where it is read."""
