"""Learning from what a service logged: rows from the event log, training that goes on, a gate, publishing."""
