"""Plans and records as people and scripts read them: text, JSON documents, a picture. They return, never print."""
