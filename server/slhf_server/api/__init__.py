"""HTTP: each module holds the routes of one part of the contract (docs/api.md)."""
