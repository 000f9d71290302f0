"""What a run costs: dated prices times time, in Decimal; what is not known stays unknown. Pure."""
