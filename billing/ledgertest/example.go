package ledgertest

import (
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// Example is a record as a gateway makes it, of alice, who pays from the balance.
func Example(id string) *billing.Record {
	return &billing.Record{
		ID: id, Time: time.Now().UTC(), User: "alice", KeyID: "k_0123456789abcdef", Account: "main", Group: "default",
		Platform: "anthropic", Model: "claude-sonnet-5-5", ModelSent: "claude-sonnet-5-5",
		Session: "7d444840-9dc0-11d1-b245-5ffdce74fad2", Stream: true, Status: 200,
		Input: 12, Output: 345, CacheWrite5m: 678, CacheRead: 91011,
		InputCost: 24_000, OutputCost: 3_450_000, CacheWriteCost: 1_695_000, CacheReadCost: 9_101_100,
		Cost: 14_270_100, RateMultiplier: 1_000_000_000, Charged: 14_270_100, Billing: billing.PaidFromBalance,
		DurationMS: 5432, TTFTMS: 321, Attempts: 1, UpstreamRequestID: "req_011CSHoEeqs5C35K2UUqR7Fy",
	}
}
