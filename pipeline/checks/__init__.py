"""`fullgrad check`: tests by covering and pasting what a model's predictions rest on."""
