package redisledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
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

// hold is what a claim has set aside.
type hold struct {
	id     string
	number uint64 // tells it from others of the same id
	amount billing.USD
	payer  string
	purses []purseName
	// settled: the record is in the spool, so it does not count here any more, but
	// to others.
	settled bool
	// asked: Redis is being asked to meet the claim, and told what waits. before is
	// what had been metHere then.
	asked         bool
	waits, before waits
	// shared: Redis may have it, or have had it; told: it did. anew: it was told twice,
	// or late, and may have heard of it after it heard of the end.
	shared, told, anew bool
}

// member is the hold's name in a purse's holds. Where Redis is asked twice for the
// sake of one request, what it hears late of the first is not about the second.
func (h *hold) member() string {
	return strconv.FormatInt(int64(h.amount), 10) + " " + h.id + " " + strconv.FormatUint(h.number, 10)
}

// holds are those of this process.
type holds struct {
	mu     sync.Mutex
	byID   map[string]*hold
	number uint64 // of the last
	// The sums: of those that count here, those of them of which Redis may not know,
	// and those that it is being asked for.
	sums, untold, pending map[purseName]billing.USD
	// metHere is what has been set aside here while Redis was being asked about a purse.
	metHere map[purseName]billing.USD
	// owed have ended, and Redis may not know it.
	owed []debt
}

// debt is a hold that ended at a time.
type debt struct {
	hold
	since time.Time
}

func newHolds() *holds {
	return &holds{
		byID: make(map[string]*hold), sums: make(map[purseName]billing.USD),
		untold: make(map[purseName]billing.USD), pending: make(map[purseName]billing.USD), metHere: make(map[purseName]billing.USD),
	}
}

// add adds to a sum of each of the purses.
func add(sums map[purseName]billing.USD, purses []purseName, amount billing.USD) {
	for _, p := range purses {
		if sums[p] = sums[p].Plus(amount); sums[p] == 0 {
			delete(sums, p)
		}
	}
}

// ask notes that a claim is put to Redis.
func (hs *holds) ask(claim *billing.Claim) *hold {
	h := &hold{id: claim.ID, amount: claim.Amount, purses: possiblePurses(claim), asked: true}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.number++
	h.number = hs.number
	if before := hs.byID[h.id]; before != nil { // two ask for one request
		hs.discount(before)
	}
	hs.byID[h.id] = h
	add(hs.pending, h.purses, h.amount)
	h.before = of(hs.metHere, h.purses, claim)
	return h
}

// find gives what has been set aside under an ID; nil for nothing.
func (hs *holds) find(id string) *hold {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.byID[id]
	if h == nil {
		return nil
	}
	found := *h
	return &found
}

// met notes that Redis has met the claim, by the standing that it told. It has not,
// for our purposes, if the claim was released meanwhile, or so much was set aside
// here that there is not enough for both.
func (hs *holds) met(h *hold, claim *billing.Claim, s standing, payer string, purses []purseName) error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.byID[h.id] != h {
		return errGivenUp
	}
	meanwhile := of(hs.metHere, h.purses, claim)
	hs.discount(h)
	if meanwhile != h.before {
		meanwhile.add(h.waits)
		meanwhile.take(h.before)
		s.lessen(meanwhile)
		if _, refusal := s.judge(claim); refusal != nil {
			delete(hs.byID, h.id)
			return errOvertaken
		}
	}
	h.shared, h.told = true, true
	hs.keep(h, payer, purses)
	return nil
}

// of are the sums of what meets a claim; possible are its purses.
func of(sums map[purseName]billing.USD, possible []purseName, claim *billing.Claim) (w waits) {
	if w.key = sums[possible[1]]; claim.Terms != nil {
		w.subscription = sums[possible[0]]
	} else {
		w.balance = sums[possible[0]]
	}
	return w
}

// keep counts a hold; one that sets nothing aside is forgotten. mu is held.
func (hs *holds) keep(h *hold, payer string, purses []purseName) {
	h.asked, h.payer, h.purses = false, payer, purses
	if h.amount == 0 || len(purses) == 0 {
		delete(hs.byID, h.id)
		return
	}
	hs.byID[h.id] = h
	add(hs.sums, purses, h.amount)
	if !h.told {
		add(hs.untold, purses, h.amount)
	}
}

// end forgets a hold, and tells what it was.
func (hs *holds) end(id string) *hold {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.byID[id]
	if h == nil {
		return nil
	}
	delete(hs.byID, id)
	hs.discount(h)
	if h.anew {
		hs.owed = append(hs.owed, debt{*h, time.Now()})
	}
	return h
}

// settle notes that a record is in the spool. Its hold goes on where others see it,
// until Redis has the record.
func (hs *holds) settle(id string) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.byID[id]
	if h == nil {
		return
	}
	hs.discount(h)
	h.settled = true
	if !h.shared {
		delete(hs.byID, id)
	}
}

// discount takes a hold from the sums. mu is held.
func (hs *holds) discount(h *hold) {
	switch {
	case h.asked:
		add(hs.pending, h.purses, -h.amount)
		for _, p := range h.purses {
			if hs.pending[p] == 0 {
				delete(hs.metHere, p)
			}
		}
	case !h.settled:
		add(hs.sums, h.purses, -h.amount)
		hs.heard(h)
	}
}

// heard takes a hold from the sums of which Redis may not know. mu is held.
func (hs *holds) heard(h *hold) {
	if !h.told && !h.settled {
		add(hs.untold, h.purses, -h.amount)
	}
	h.told = true
}

// sum is what this process has set aside on a purse.
func (hs *holds) sum(p purseName) billing.USD {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.sums[p]
}

// untoldOf is what is set aside here, and Redis may not know, of what meets a claim.
func (hs *holds) untoldOf(h *hold, claim *billing.Claim) waits {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return of(hs.untold, h.purses, claim)
}

// all are those of which Redis is to know.
func (hs *holds) all() []hold {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	all := make([]hold, 0, len(hs.byID))
	for _, h := range hs.byID {
		if !h.asked {
			all = append(all, *h)
		}
	}
	return all
}

// share notes that Redis has the holds, some of them set aside anew, and gives those
// of the latter that have ended.
func (hs *holds) share(told, anew []hold) (ended []hold) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, t := range anew {
		if h := hs.byID[t.id]; h != nil && h.number == t.number && !h.asked {
			h.anew = true
		} else {
			ended = append(ended, t)
		}
	}
	for _, t := range told {
		if h := hs.byID[t.id]; h != nil && h.number == t.number && !h.asked {
			h.shared = true
			hs.heard(h)
		}
	}
	return ended
}

// owe notes that Redis is to hear that the holds have ended, if they have.
func (hs *holds) owe(told ...hold) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, t := range told {
		if h := hs.byID[t.id]; h == nil || h.number != t.number {
			hs.owed = append(hs.owed, debt{t, time.Now()})
		} else if !h.asked {
			h.shared, h.anew = true, true // or it may be
		}
	}
}

// debts are the holds of which Redis is to hear that they have ended; it knows by
// itself of those that have expired.
func (hs *holds) debts() (ended []hold) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, d := range hs.owed {
		if time.Since(d.since) < holdTTL {
			ended = append(ended, d.hold)
		}
	}
	hs.owed = nil
	return ended
}

// renew says to Redis that the holds go on. What it has forgotten, or never knew
// because it was out of reach, it hears of again.
func (l *Ledger) renew(ctx context.Context) error {
	var errs []error
	for batch := range slices.Chunk(l.holds.all(), renewBatch) {
		if l.down.Load() || ctx.Err() != nil {
			errs = append(errs, errDown)
			break
		}
		// Those that end while this is under way must not be set aside for good.
		anew, err := l.tellHolds(ctx, batch, holdTTL)
		if err != nil {
			l.holds.owe(batch...)
		} else {
			err = l.endHolds(ctx, l.holds.share(batch, anew))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// endHolds says to Redis that holds have ended, now or when it can be reached.
func (l *Ledger) endHolds(ctx context.Context, ended []hold) error {
	var errs []error
	for batch := range slices.Chunk(ended, renewBatch) {
		err := errDown
		if !l.down.Load() {
			_, err = l.tellHolds(ctx, batch, 0)
		}
		if err != nil {
			l.holds.owe(batch...)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// tellHolds says that holds go on for a time, or end with 0, and gives those that
// Redis did not have.
func (l *Ledger) tellHolds(ctx context.Context, told []hold, ttl time.Duration) (anew []hold, err error) {
	args := []any{ttl.Milliseconds()}
	var keys []string
	var of []int
	for i := range told {
		for _, p := range told[i].purses {
			keys = append(keys, l.key(p), l.holdsKey(p))
			args = append(args, told[i].member(), p.field())
			of = append(of, i)
		}
	}
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	reply, err := redispipe.Run(bounded, l.client, holdsScript, keys, args...)
	if l.note(ctx, err) != nil {
		return nil, err
	}
	numbers, _ := reply.([]any)
	last := -1
	for _, number := range numbers {
		n, _ := number.(int64)
		if n < 1 || int(n) > len(of) {
			return nil, fmt.Errorf("an unknown answer of Redis for holds: %v", reply)
		}
		if i := of[n-1]; i != last {
			anew, last = append(anew, told[i]), i
		}
	}
	return anew, nil
}
