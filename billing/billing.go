// Package billing is what a request cost and who pays: money (USD), prices
// (Prices), what was used (Usage), what is kept of it (Record), and the ledger
// that charges it exactly once (Ledger, implemented by the packages below).
package billing
