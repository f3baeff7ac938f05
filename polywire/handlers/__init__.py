"""Running an application's handlers: what they are given, what their outcome means, who runs them."""
