"""What every layer may lean on: errors, units, frozen types, names. It knows nothing of training or of AWS."""
