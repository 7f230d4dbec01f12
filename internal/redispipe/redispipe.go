// Package redispipe lets the commands of one room travel in the pipeline of
// another's, so that a request waits for one round trip where it would for two, and
// makes the scripts of both.
package redispipe

import (
	"context"
	"io/fs"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Guard names a field of a hash that exists exactly if the command which riders
// travel behind was granted what it asked for. A rider that is to take effect in
// that case alone has its script look there. The zero Guard: the command asks for
// nothing that could be refused.
type Guard struct{ Key, Field string }

// Rider adds its commands to a pipeline. What it returns, if anything, is called when
// they have their results, before Exec returns.
type Rider func(pipe redis.Pipeliner, guard Guard) (answered func())

// riders are what waits for a pipeline to take it along.
type riders struct {
	mu    sync.Mutex
	queue []Rider
}

type (
	riderKey struct{}
	guardKey struct{}
)

// WithRider returns a context under which the next Exec takes a rider along. The
// commands of one that nothing took along never have results, so whoever needs them
// asks again.
func WithRider(ctx context.Context, rider Rider) context.Context {
	r := &riders{queue: []Rider{rider}}
	if outer, ok := ctx.Value(riderKey{}).(*riders); ok {
		r.queue = append(outer.take(), rider)
	}
	return context.WithValue(ctx, riderKey{}, r)
}

// WithGuard returns a context under which the riders of Exec get the guard.
func WithGuard(ctx context.Context, guard Guard) context.Context {
	return context.WithValue(ctx, guardKey{}, guard)
}

// Exec runs the commands that queue adds to a pipeline, and the riders of ctx
// after them, in one round trip. Each command has its own result; whoever sent
// it looks there.
func Exec(ctx context.Context, client redis.UniversalClient, queue func(redis.Pipeliner)) {
	pipe := client.Pipeline()
	queue(pipe)
	var answered []func()
	if r, ok := ctx.Value(riderKey{}).(*riders); ok {
		guard, _ := ctx.Value(guardKey{}).(Guard)
		for _, add := range r.take() {
			if f := add(pipe, guard); f != nil {
				answered = append(answered, f)
			}
		}
	}
	commands, err := pipe.Exec(ctx)
	if err != nil && !slices.ContainsFunc(commands, failed) {
		// No command was run: the server refused the connection, as it does after a
		// change of the password, and the library keeps that to the pipeline.
		for _, command := range commands {
			command.SetErr(err)
		}
	}
	for _, f := range answered {
		f()
	}
}

func failed(command redis.Cmder) bool { return command.Err() != nil }

// take returns the riders that no pipeline has taken yet.
func (r *riders) take() []Rider {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.queue
	r.queue = nil
	return taken
}

// Run runs a script, with the riders of ctx, in one round trip; two where the
// server does not know the script yet.
func Run(ctx context.Context, client redis.UniversalClient, script *redis.Script, keys []string, args ...any) (any, error) {
	var cmd *redis.Cmd
	Exec(ctx, client, func(pipe redis.Pipeliner) { cmd = script.EvalSha(ctx, pipe, keys, args...) })
	if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		cmd = script.Eval(ctx, client, keys, args...)
	}
	return cmd.Result()
}

// Script makes a script of the files <part>.lua in the directory lua of an
// embedded file system, one after the other.
func Script(sources fs.FS, parts ...string) *redis.Script {
	text := ""
	for _, part := range parts {
		source, err := fs.ReadFile(sources, "lua/"+part+".lua")
		if err != nil {
			panic(err) // it is embedded
		}
		text += string(source) + "\n"
	}
	return redis.NewScript(text)
}
