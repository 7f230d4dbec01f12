package billing

// Usage is what one answer used. Counts are tokens. It has the shape of upstream.Usage, as
// neither package knows the other.
type Usage struct {
	Input        int64
	Output       int64
	CacheWrite5m int64
	CacheWrite1h int64
	CacheRead    int64
	// WebSearches are priced per search, beside the tokens.
	WebSearches int64
	// Speed is "fast", or anything else for standard speed.
	Speed string
	// Tier is "batch" or "priority", or anything else for the standard tier.
	Tier string
	// Geo is where inference ran; "us" has a multiplier.
	Geo string
	// Iterations, where present, replace the token counts above, each priced
	// by its own model.
	Iterations []Iteration
}

// Iteration is one model call among several that made an answer.
type Iteration struct {
	// Model is "" for the model that the client asked for.
	Model        string
	Input        int64
	Output       int64
	CacheWrite5m int64
	CacheWrite1h int64
	CacheRead    int64
}

// Cost is the price of a Usage, by kind.
type Cost struct {
	Input, Output, CacheWrite, CacheRead, WebSearch USD
}

// Total is the sum of all kinds.
func (c Cost) Total() USD {
	return c.Input.Plus(c.Output).Plus(c.CacheWrite).Plus(c.CacheRead).Plus(c.WebSearch)
}
