// Package redislink is a process's link to Redis. It gives one answer to "is Redis
// up?", for everybody who keeps something there, and runs their scripts.
//
// Redis is down from the first command that it does not run (it can't be reached, is
// silent for longer than Options.Timeout, refuses the connection or the password, or
// refuses all commands, or all writes, whatever they are: see isOutage) until it runs
// a script that writes and each Member has put itself right with it. The log says
// once that it is down, with Redis's own words, and once that it is back.
package redislink

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// probeEvery is how often Redis is asked whether it is back.
	probeEvery = 250 * time.Millisecond
	// relapse is how soon after it was back it must go again for the next outage to be
	// probed with twice the pause, up to slowestProbe: what Redis refuses may be only
	// what the probe doesn't ask for.
	relapse      = 10 * time.Second
	slowestProbe = 15 * time.Second
	// mostStalls is how often in a row a probe may be the victim of this process's own
	// standstill before Redis counts as down all the same.
	mostStalls = 3
	// mostReasons bounds how many reasons of an outage are told.
	mostReasons = 16
)

// Options of a Link.
type Options struct {
	// Namespace begins the key that is written to find out whether Redis is back, in
	// braces. Default: sub2api.
	Namespace string
	// Timeout bounds a round trip. Default: 1 s.
	Timeout time.Duration
	// Meanwhile is what the log says that becomes of requests while Redis is down.
	Meanwhile string
	// Logger is told when Redis goes and comes. Default: slog.Default().
	Logger *slog.Logger
}

// Member keeps something in Redis.
type Member interface {
	// Lost is called soon after Redis went down, from the Link's own goroutine.
	Lost()
	// Regain is called when Redis answers again, and before Link.Down says so: it
	// brings back what Redis has lost or missed. Redis stays down if it fails, and
	// each Member's is called again.
	Regain(ctx context.Context) error
}

// Link is safe for concurrent use. Make one with New. It speaks to Redis when it is
// told to, and by itself only while Redis is down.
type Link struct {
	client  redis.UniversalClient
	options Options

	mu      sync.Mutex
	members []Member
	down    *Outage // nil: Redis is up
	upAt    time.Time
	pause   time.Duration // between probes
	running bool          // the loop is
	suspect bool          // the loop is to look, though nobody has found Redis down
	closed  bool

	wake   chan struct{} // holds one
	ctx    context.Context
	cancel context.CancelFunc
	loop   sync.WaitGroup
}

// New returns a link over a client, which stays the caller's to close, after the
// link. The client must give up when a command's context ends
// (ContextTimeoutEnabled), or Redis's silence counts as this process's standstill.
func New(client redis.UniversalClient, options Options) *Link {
	options.Namespace = cmp.Or(options.Namespace, "sub2api")
	options.Timeout = cmp.Or(options.Timeout, time.Second)
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	l := &Link{client: client, options: options, wake: make(chan struct{}, 1), pause: probeEvery}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Close ends the link. Members must be closed by then.
func (l *Link) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.loop.Wait()
}

// Client is what commands go over; for those that Exec does not send, such as
// subscriptions.
func (l *Link) Client() redis.UniversalClient { return l.client }

// Join makes m hear of outages, after those who joined before. If Redis is down, m
// hears of its end.
func (l *Link) Join(m Member) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.members = append(l.members, m)
}

// Leave is Join's reverse. A call to m may be under way.
func (l *Link) Leave(m Member) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.members = slices.DeleteFunc(l.members, func(other Member) bool { return other == m })
}

// Down is why Redis does not serve, an *Outage; nil while it does. Who is about to
// ask Redis asks here first: commands are sent all the same, for the sake of Members
// that regain.
func (l *Link) Down() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down == nil {
		return nil
	}
	return l.down
}

// Outage is why Redis does not serve.
type Outage struct {
	Err error
	// Stalled: the answer took so much longer than Options.Timeout that it was this
	// process which stood still. Redis may be well, and is not taken to be down before
	// it was asked again.
	Stalled bool
}

// Error implements error.
func (o *Outage) Error() string { return "Redis is out of reach: " + o.Err.Error() }

// Unwrap returns Redis's own words.
func (o *Outage) Unwrap() error { return o.Err }

// refusals begin the errors that a server gives to whatever it is asked, or to
// whatever writes.
var refusals = []string{
	"NOAUTH ", "WRONGPASS ", "NOPERM ", "DENIED ", "LOADING ", "MASTERDOWN ", "CLUSTERDOWN ", "READONLY ", "OOM ", "MISCONF ",
	"NOREPLICAS ", "BUSY ", "max number of clients ",
}

// scriptRefusals are in what some servers say, without a code, to a script that they
// have let begin.
var scriptRefusals = []string{
	"The user executing the script can't ", "ACL failure in script", "while the cluster is down",
}

// isOutage reports whether a command's error means that Redis serves nobody: it did
// not answer, or it said so. What else Redis says is of that command alone.
func isOutage(err error) bool {
	var reply redis.Error
	switch {
	case err == nil || errors.Is(err, redis.Nil) || errors.Is(err, context.Canceled):
		return false
	case !errors.As(err, &reply):
		return true
	}
	text := strings.TrimPrefix(reply.Error(), "ERR ")
	// To a script, Redis 6 gives its refusal somewhere within "Error running script …".
	return slices.ContainsFunc(refusals, func(code string) bool {
		return strings.HasPrefix(text, code) || strings.Contains(text, ": -"+code)
	}) || slices.ContainsFunc(scriptRefusals, func(words string) bool { return strings.Contains(text, words) })
}

// failed takes note of a failure of a command that was sent at a moment.
func (l *Link) failed(began time.Time, err error) *Outage {
	outage := &Outage{Err: err, Stalled: IsTimeout(err) && time.Since(began) > l.options.Timeout*5/4}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed || l.down != nil:
	case began.Before(l.upAt): // it is of an outage that is over
	case outage.Stalled:
		l.suspect = true
		l.probeSoon()
	default:
		l.goDown(outage)
	}
	return outage
}

// goDown begins an outage. mu is held.
func (l *Link) goDown(outage *Outage) {
	if time.Since(l.upAt) < relapse {
		l.pause = min(2*l.pause, slowestProbe)
	} else {
		l.pause = probeEvery
	}
	l.down = outage
	l.options.Logger.Error("Redis is out of reach; "+l.options.Meanwhile, "error", outage.Err)
	l.probeSoon()
}

// probeSoon has the loop look after Redis; it begins with the first outage. mu is held.
func (l *Link) probeSoon() {
	if !l.running {
		l.running = true
		l.loop.Go(l.run)
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// IsTimeout reports whether an error is that something took too long.
func IsTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// run waits for outages, and in each for its end.
func (l *Link) run() {
	for {
		select {
		case <-l.wake:
		case <-l.ctx.Done():
			return
		}
		if !l.isWell() {
			l.tellLost()
			l.outlast()
		}
	}
}

// isWell reports whether Redis serves; it is asked if there is a doubt.
func (l *Link) isWell() bool {
	l.mu.Lock()
	suspect := l.suspect && l.down == nil
	l.suspect = false
	l.mu.Unlock()
	if suspect {
		if err := l.probeAgain(); err != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.down == nil && l.ctx.Err() == nil {
				l.goDown(&Outage{Err: err})
			}
			return false
		}
	}
	return l.Down() == nil
}

// probeAgain probes once more where this process stood still meanwhile.
func (l *Link) probeAgain() (err error) {
	for range mostStalls {
		var outage *Outage
		if err = l.probe(); !errors.As(err, &outage) {
			return err
		}
		if err = outage.Err; !outage.Stalled || l.ctx.Err() != nil {
			return err
		}
	}
	return err
}

// outlast asks Redis again and again until it is back.
func (l *Link) outlast() {
	l.mu.Lock()
	pause := l.pause
	l.mu.Unlock()
	known := map[string]bool{reasonOf(l.Down()): true}
	for {
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
			return
		}
		err := l.probe()
		answers := err == nil
		if answers {
			if err = l.regain(); err == nil {
				return
			}
		}
		reason := reasonOf(err)
		if answers && reason == "" { // what a Member says
			reason = err.Error()
		}
		if reason != "" && !known[reason] && len(known) < mostReasons && l.ctx.Err() == nil {
			known[reason] = true
			l.options.Logger.Warn("Redis answers, but does not serve yet", "error", err)
		}
	}
}

// reasonOf is the kind of what Redis itself says in an error: its first two words, as
// others name scripts. "" if it says nothing.
func reasonOf(err error) string {
	said := ""
	if reply, ok := errors.AsType[redis.Error](err); ok {
		said = reply.Error()
	} else if turned, ok := errors.AsType[*TurnedAway](err); ok {
		said = turned.Words
	}
	words := strings.Fields(said)
	return strings.Join(words[:min(2, len(words))], " ")
}

// TurnedAway is an error of a connection that the server closed with words of its own.
// It wraps nothing, since the client library unwraps what a connection began with.
type TurnedAway struct {
	Words string
	Err   error
}

// Error implements error.
func (t *TurnedAway) Error() string { return t.Words + ": " + t.Err.Error() }

// regain has all members put themselves right with Redis, those too that join
// meanwhile, and ends the outage.
func (l *Link) regain() error {
	right := map[Member]bool{}
	for {
		m := l.next(right)
		if m == nil {
			return nil
		}
		if err := m.Regain(l.ctx); err != nil {
			return err
		}
		right[m] = true
	}
}

// next is the first member that is not right yet; the outage is over if there is
// none.
func (l *Link) next(right map[Member]bool) Member {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.members, func(m Member) bool { return !right[m] }); i >= 0 {
		return l.members[i]
	}
	l.down, l.upAt = nil, time.Now()
	l.options.Logger.Info("Redis is back")
	return nil
}

// tellLost tells all members that Redis is down.
func (l *Link) tellLost() {
	l.mu.Lock()
	members := slices.Clone(l.members)
	l.mu.Unlock()
	for _, m := range members {
		m.Lost()
	}
}

// probeScript writes, because a server that takes no writes is of no use.
var probeScript = redis.NewScript(`return redis.call('SET', KEYS[1], '1', 'PX', 60000)`)

// probe asks whether Redis runs scripts that write.
func (l *Link) probe() error {
	_, err := l.Run(l.ctx, probeScript, []string{"{" + l.options.Namespace + "}:probe"})
	return err
}
