"""What the user wants: settings and where each came from. It knows nothing of plans, prices or AWS."""
