package upstream

// Usage is what one answer used, as upstream reported it. Counts are tokens.
type Usage struct {
	Input        int64
	Output       int64
	CacheWrite5m int64
	CacheWrite1h int64
	CacheRead    int64
	// WebSearches are billed per search, beside the tokens.
	WebSearches int64
	// Speed is "standard", "fast" or "" (not said).
	Speed string
	// Tier is "standard", "priority", "batch" or "" (not said).
	Tier string
	// Geo is where inference ran: "us", "global", "not_available", …
	Geo string
	// Iterations, where present, replace the token counts above: the totals
	// leave some of them out (compaction).
	Iterations []Iteration
}

// Iteration is one model call among several that made an answer.
type Iteration struct {
	// Model is "" where upstream said null: the model that was asked for.
	Model        string
	Input        int64
	Output       int64
	CacheWrite5m int64
	CacheWrite1h int64
	CacheRead    int64
}
