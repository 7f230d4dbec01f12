package faults_test

import "github.com/sub2api/caddy-sub2api/billing"

func (c *cell) checkRecords(records map[string]billing.Record) {
	for _, want := range c.want {
		r, ok := records[want.id]
		if !ok {
			c.report("no record of %s", want.id)
			continue
		}
		c.checkRecord(want, &r)
	}
}

// report is Errorf for when the cell's own test is over.
func (c *cell) report(format string, args ...any) {
	c.g.parent.Errorf(c.name()+": "+format, args...)
}

func (c *cell) checkRecord(want wantRecord, r *billing.Record) {
	if c.loses && r.Estimated != want.estimated {
		want.estimated, want.output = r.Estimated, map[bool]int64{true: 40, false: 100}[r.Estimated]
	}
	if r.Status != want.status || r.Attempts != want.attempts || r.Stream != c.stream || r.Estimated != want.estimated || r.User != c.user ||
		r.CacheRead != want.cacheRead {
		c.report("record %+v, want %+v", r, want)
	}
	used := want.input != 0
	switch {
	case want.input < 0:
		used = r.Input > 0 && r.Output > 0
		if want.output >= 0 && r.Output != want.output {
			c.report("record of %d tokens out, want %d", r.Output, want.output)
		}
		if want.estimated && r.Input > 100 {
			c.report("an estimate of %d tokens in", r.Input)
		}
	case want.estimated:
		if r.Input != want.input || r.Output < want.output || r.Output > 2*want.output+16 {
			c.report("record of %d and %d tokens, want %d and about %d", r.Input, r.Output, want.input, want.output)
		}
	case r.Input != want.input || r.Output != want.output:
		c.report("record of %d and %d tokens, want %d and %d", r.Input, r.Output, want.input, want.output)
	}
	paid := billing.PaidByNobody
	if used {
		paid = billing.PaidFromBalance
	}
	if (r.Charged > 0) != used || r.Charged != r.Cost || r.Billing != paid {
		c.report("charged %s of %s from %s", r.Charged, r.Cost, r.Billing)
	}
}
