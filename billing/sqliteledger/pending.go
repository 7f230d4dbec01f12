package sqliteledger

import "github.com/sub2api/caddy-sub2api/billing/journal"

// pending is what was settled and is not in the database yet, or not known to be:
// records, in the order of settling, and where each ends in the journal, by its id.
type pending struct {
	records []*settled
	ends    map[string]journal.Position
}

func newPending() *pending {
	return &pending{ends: make(map[string]journal.Position)}
}

func (g *pending) add(r *settled, end journal.Position) {
	g.records = append(g.records, r)
	g.ends[r.ID] = end
}

// reset empties it, and keeps its memory, unless that is what many records took
// that waited for long.
func (g *pending) reset() {
	if len(g.records) > 2*flushCount {
		*g = *newPending()
		return
	}
	clear(g.records)
	g.records = g.records[:0]
	clear(g.ends)
}

// waiting is how many records are not known to be in the database.
func (l *Ledger) waiting() int { return len(l.current.records) + len(l.taken.records) }

// endOf tells where a record ends in the journal, if it may not be in the database.
func (l *Ledger) endOf(id string) (end journal.Position, isWaiting bool) {
	if end, isWaiting = l.current.ends[id]; !isWaiting {
		end, isWaiting = l.taken.ends[id]
	}
	return end, isWaiting
}

// rotate begins a new pending batch; none may be taken already. For who holds
// flushing, all shards and mu.
func (l *Ledger) rotate() {
	l.current, l.taken = l.taken, l.current
	l.shards.swap()
}

// forgetTaken is for who holds flushing and mu, and resets spare thereafter, which
// takes milliseconds, without mu.
func (l *Ledger) forgetTaken() {
	l.taken, l.spare = l.spare, l.taken
}
