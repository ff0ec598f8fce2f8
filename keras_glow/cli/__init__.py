"""The command line, the runs it trains, and the page in the browser.

The top of the house: may import everything, and nothing imports it.
"""
