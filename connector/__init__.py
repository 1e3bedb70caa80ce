"""The pool of images on S3: objects (``store``) and images, copies and fragments (``pool``)."""
