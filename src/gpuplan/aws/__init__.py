"""What gpuplan asks of AWS, one file a concern; the only place besides the backends that imports boto3."""
