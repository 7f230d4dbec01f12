package ledgertest

import (
	"sync"
	"testing"
	"time"
	"unsafe"
)

// Clock is what the ledgers of a test go by instead of time.Now. It stands still but
// for Pass and Set. Its times have a monotonic reading, as those of time.Now have,
// which Pass alone moves: somebody who sets a clock changes nothing about how long ago
// something was.
type Clock struct {
	isOwn bool // it is time.Now

	mu      sync.Mutex
	shows   time.Time
	reading time.Duration
	follow  []func(now time.Time)
}

// NewClock returns a clock that shows that time.
func NewClock(shows time.Time) *Clock {
	return &Clock{shows: shows.UTC().Round(0), reading: 1000 * time.Hour}
}

// Now is what it shows, in UTC.
func (c *Clock) Now() time.Time {
	if c.isOwn {
		return time.Now().UTC()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return withReading(c.shows, c.reading)
}

// Follow has f called with what the clock shows, now and whenever that changes.
func (c *Clock) Follow(f func(now time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.follow = append(c.follow, f)
	f(c.shows)
}

// Pass lets time pass. A test that can't is skipped.
func (c *Clock) Pass(t testing.TB, d time.Duration) {
	c.move(t, func() { c.shows, c.reading = c.shows.Add(d), c.reading+d })
}

// PassUntil lets time pass until the clock shows that.
func (c *Clock) PassUntil(t testing.TB, shows time.Time) { c.Pass(t, shows.Sub(c.Now().Round(0))) }

// Set makes the clock show another time, without a moment's passing.
func (c *Clock) Set(t testing.TB, shows time.Time) {
	c.move(t, func() { c.shows = shows.UTC().Round(0) })
}

// Jump sets the clock ahead, or back.
func (c *Clock) Jump(t testing.TB, d time.Duration) { c.Set(t, c.Now().Round(0).Add(d)) }

func (c *Clock) move(t testing.TB, f func()) {
	t.Helper()
	if c.isOwn {
		t.Skip("nobody can set the clock of this store")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	for _, f := range c.follow {
		f(c.shows)
	}
}

// withReading is a time with a monotonic reading, of which package time makes no
// others than Now gives: its first two words are, with one, a mark, the seconds since
// 1885 and the nanoseconds, and the reading.
func withReading(t time.Time, reading time.Duration) time.Time {
	const (
		hasReading = 1 << 63
		secondBits = 33
		since1885  = 2682288000 // to 1970, in seconds
	)
	seconds := t.Unix() + since1885
	if seconds < 0 || seconds >= 1<<secondBits {
		return t // so it has none, in package time too
	}
	made := t
	words := (*struct {
		wall uint64
		ext  int64
	})(unsafe.Pointer(&made))
	words.wall = hasReading | uint64(seconds)<<30 | uint64(t.Nanosecond())
	words.ext = int64(reading)
	if !made.Round(0).Equal(t) || made.Add(time.Second).Sub(made) != time.Second {
		panic("ledgertest: package time keeps its times in another way")
	}
	return made
}
