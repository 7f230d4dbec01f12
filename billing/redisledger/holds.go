package redisledger

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

const (
	// holdTTL is how long money stays set aside of which nobody says that it is
	// still needed.
	holdTTL = time.Minute
	// renewEvery is how often that is said.
	renewEvery = 20 * time.Second
	// renewBatch is of how many holds one command says so.
	renewBatch = 500
)

// phase is what this process knows of where a hold counts. docs/architecture.md has the
// table of what leads from one to another.
type phase uint8

const (
	// asked: Redis is asked for it, and has not answered yet.
	asked phase = iota
	// abandoned: it was given back while Redis is asked for it, and ends with the
	// answer.
	abandoned
	// kept: Redis has it.
	kept
	// inDoubt: it was set aside here, and Redis does not know, or may not. It counts
	// here until Redis was told; where Redis did know, it counts twice until then.
	inDoubt
)

// hold is what a hold request has set aside.
type hold struct {
	id     string
	number uint64 // tells it from others of the same id
	amount billing.USD
	user   string
	payer  billing.Payer
	// budgets are those that it is set aside on; while the phase is asked, those that
	// it may be.
	budgets []budget
	phase   phase
	// unknown is what Redis was told that it does not know, when it was asked.
	unknown sums
	doubts  int // holds.doubts when it began
}

// member is the hold's name in a budget's holds.
func (h *hold) member() string {
	return strconv.FormatInt(int64(h.amount), 10) + " " + h.id + " " + strconv.FormatUint(h.number, 10)
}

// holds are those of this process.
type holds struct {
	mu     sync.Mutex
	byID   map[string]*hold
	number uint64 // of the last
	doubts int    // how often Redis lost what it had
	// sums are of all that are not abandoned, unsent of those in doubt.
	sums, unsent map[budget]billing.USD
}

func newHolds() *holds {
	return &holds{byID: make(map[string]*hold), sums: make(map[budget]billing.USD), unsent: make(map[budget]billing.USD)}
}

// count adds a hold to the sums, or takes it from them. mu is held.
func (hs *holds) count(h *hold, sign billing.USD) {
	for _, b := range h.budgets {
		if h.phase != abandoned {
			add(hs.sums, b, sign*h.amount)
		}
		if h.phase == inDoubt {
			add(hs.unsent, b, sign*h.amount)
		}
	}
}

// move changes a hold's phase. mu is held.
func (hs *holds) move(h *hold, to phase) {
	hs.count(h, -1)
	h.phase = to
	hs.count(h, 1)
}

// make begins a hold for a hold request. mu is held.
func (hs *holds) make(c *billing.HoldRequest, begin phase) *hold {
	hs.number++
	h := &hold{id: c.ID, number: hs.number, amount: c.Amount, user: c.User, phase: begin, budgets: possibleBudgets(c), doubts: hs.doubts}
	if before := hs.byID[h.id]; before != nil { // two ask for one request
		hs.move(before, abandoned)
	}
	hs.byID[h.id] = h
	hs.count(h, 1)
	return h
}

// possibleBudgets are those on which a hold request may set something aside: first that of
// who pays.
func possibleBudgets(c *billing.HoldRequest) []budget {
	first := userBudget(c.User)
	if c.Terms != nil {
		first = subscriptionBudget(c.User, c.Terms.Group)
	}
	return []budget{first, keyBudget(c.KeyID)}
}

// ask begins a hold that Redis is asked for.
func (hs *holds) ask(c *billing.HoldRequest) *hold {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.make(c, asked)
	h.unknown = sumsOf(hs.unsent, c)
	return h
}

// find returns the hold of an ID that was met.
func (hs *holds) find(id string) (found hold, isThere bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.byID[id]
	if h == nil || h.phase == asked || h.phase == abandoned {
		return hold{}, false
	}
	return *h, true
}

// meet notes that a hold request was met, by Redis or, if in doubt, by this process. It
// reports whether the hold was abandoned meanwhile.
func (hs *holds) meet(h *hold, payer billing.Payer, a *account, to phase) (isOver bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.met(h, payer, a, to)
}

func (hs *holds) met(h *hold, payer billing.Payer, a *account, to phase) (isOver bool) {
	isOver = h.phase == abandoned
	hs.count(h, -1)
	h.payer = payer
	h.budgets = slices.Clone(h.budgets)
	if a.key == nil {
		h.budgets = h.budgets[:1]
	}
	if payer.Billing == billing.PaidByNobody {
		h.budgets = h.budgets[1:]
	}
	if isOver || h.amount == 0 || len(h.budgets) == 0 { // nothing is set aside
		hs.forget(h)
		return isOver
	}
	if h.phase = to; h.doubts != hs.doubts {
		h.phase = inDoubt
	}
	hs.count(h, 1)
	return false
}

// drop ends a hold that came to nothing. It reports whether it was abandoned by then.
func (hs *holds) drop(h *hold) (isOver bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.count(h, -1)
	h.budgets = nil
	hs.forget(h)
	return h.phase == abandoned
}

// forget forgets a hold. mu is held.
func (hs *holds) forget(h *hold) {
	if hs.byID[h.id] == h {
		delete(hs.byID, h.id)
	}
}

// end ends the hold of an ID; nil if there is none, or one that ends with the answer.
func (hs *holds) end(id string) *hold {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.byID[id]
	switch {
	case h == nil || h.phase == abandoned:
		return nil
	case h.phase == asked:
		hs.move(h, abandoned)
		return nil
	}
	hs.count(h, -1)
	hs.forget(h)
	return h
}

// sum is what this process has set aside on a budget.
func (hs *holds) sum(b budget) billing.USD {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.sums[b]
}

// in are the holds in a phase, kept or inDoubt.
func (hs *holds) in(which phase) (list []hold) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if which == inDoubt && len(hs.unsent) == 0 {
		return nil
	}
	for _, h := range hs.byID {
		if h.phase == which {
			h.doubts = hs.doubts
			list = append(list, *h)
		}
	}
	return list
}

// doubt puts all in doubt that Redis has, or is asked for: it may have lost them.
func (hs *holds) doubt() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.doubts++
	for _, h := range hs.byID {
		if h.phase == kept {
			hs.move(h, inDoubt)
		}
	}
}

// isOld reports whether Redis was asked for a hold before it lost what it had.
func (hs *holds) isOld(h *hold) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return h.doubts != hs.doubts
}

// told notes that Redis has holds, and returns those that have ended meanwhile.
func (hs *holds) told(told []hold) (ended []hold) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, t := range told {
		switch h := hs.byID[t.id]; {
		case h == nil || h.number != t.number:
			ended = append(ended, t)
		case h.phase == inDoubt && t.doubts == hs.doubts:
			hs.move(h, kept)
		}
	}
	return ended
}

// The ways to tell Redis of holds; see holds.lua.
const (
	renewHolds  = "renew"
	reviveHolds = "revive"
	endHolds    = "end"
)

// renew says to Redis that its holds go on. What it has lost, it hears of again.
func (l *Ledger) renew(ctx context.Context) error {
	missing, err := l.tell(ctx, renewHolds, l.holds.in(kept))
	if err != nil {
		return err
	}
	return l.revive(ctx, missing)
}

// revive tells Redis of holds that it may not have. Those that end while this is under
// way must not be set aside for good.
func (l *Ledger) revive(ctx context.Context, list []hold) error {
	if _, err := l.tell(ctx, reviveHolds, list); err != nil {
		return err
	}
	_, err := l.tell(ctx, endHolds, l.holds.told(list))
	return err
}

// tell tells Redis of holds, and returns those that it does not have.
func (l *Ledger) tell(ctx context.Context, how string, list []hold) (missing []hold, err error) {
	for batch := range slices.Chunk(list, renewBatch) {
		args := []any{how, holdTTL.Milliseconds()}
		var keys []string
		var of []int
		for i := range batch {
			for _, b := range batch[i].budgets {
				field := "" // of a subscription that a config declares, nothing may be known
				if strings.HasPrefix(string(b), "key:") {
					field = "user"
				}
				keys = append(keys, l.key(b), l.holdsKey(b), l.userKey(batch[i].user))
				args = append(args, batch[i].member(), field, batch[i].payer.UserNumber)
				of = append(of, i)
			}
		}
		answer, err := l.link.Run(ctx, holdsScript, keys, args...)
		if err != nil {
			return nil, err
		}
		last := -1
		numbers, _ := answer.([]any)
		for _, number := range numbers {
			if n, _ := number.(int64); n >= 1 && int(n) <= len(of) && of[n-1] != last {
				last = of[n-1]
				missing = append(missing, batch[last])
			}
		}
	}
	return missing, nil
}
