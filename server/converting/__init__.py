"""Files that aren't text, made into text: in a process of its own, where a file can do no harm."""
