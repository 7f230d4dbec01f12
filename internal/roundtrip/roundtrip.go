// Package roundtrip lets what one package has to say to a store travel in another's
// round trip, so that a request waits once where it would wait twice.
package roundtrip

// Batch is what travels along. Who gets one hands it to whatever speaks to the same
// store next; what that is made of is known to the store's own client alone
// (redislink for Redis). A nil Batch is nothing. A Batch that nobody took along is
// no error: whoever made it finds that it has no answer, and asks.
type Batch []any
