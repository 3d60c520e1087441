"""A network behind a web page and `POST /predict`."""
