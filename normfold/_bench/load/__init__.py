"""One level of load: closed and open loops, and what is counted of them."""
