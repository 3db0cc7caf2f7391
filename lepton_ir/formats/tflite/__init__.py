"""The container of TFLite files: schema, checked reader, writer and structural validator."""
