"""Other engines for the recurrence that `jaxlstm.sequence` scans."""
