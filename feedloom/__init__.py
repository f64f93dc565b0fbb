"""The faces that people touch: the command line, data sets, the report page and the doctor."""
