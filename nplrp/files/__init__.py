"""Weight files and what lies beside them: Keras's layouts, HDF5, configurations, named architectures, downloads, saved explanations."""
