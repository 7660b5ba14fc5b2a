"""Put the BatchNormalization nodes of a file into inference mode, with stored statistics or those of samples."""
