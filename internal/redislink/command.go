package redislink

import (
	"context"
	"io/fs"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

// Guard names a field of a hash that exists exactly if the command which others
// travel along with was granted what it asked for. An Operation that is to take
// effect in that case alone has its script look there. The zero Guard: the command
// asks for nothing that could be refused.
type Guard struct{ Key, Field string }

// Operation is what a roundtrip.Batch is made of here: it adds commands to a
// pipeline. What it returns, if anything, is called when they have their results,
// before the round trip returns.
type Operation func(pipe redis.Pipeliner, guard Guard) (answered func())

// Exec sends the commands that queue adds to a pipeline, and those of along after
// them, in one round trip. Each command has its own result; what Exec returns is why
// Redis does not serve, an *Outage, or nil. It takes Options.Timeout at most and does
// not end with ctx: a command whose answer nobody heard may have been run, and the
// connection would be lost.
func (l *Link) Exec(ctx context.Context, guard Guard, along roundtrip.Batch, queue func(redis.Pipeliner)) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.options.Timeout)
	defer cancel()
	began := time.Now()
	pipe := l.client.Pipeline()
	queue(pipe)
	var answered []func()
	for _, op := range along {
		if f := op.(Operation)(pipe, guard); f != nil {
			answered = append(answered, f)
		}
	}
	commands, err := pipe.Exec(bounded)
	var outage *Outage
	if err != nil && !slices.ContainsFunc(commands, failed) {
		// No command was run: the server refused the connection, as it does after a
		// change of the password, and the library keeps that to the pipeline.
		for _, command := range commands {
			command.SetErr(err)
		}
		outage = l.failed(began, err)
	}
	for _, command := range commands {
		if outage == nil && isOutage(command.Err()) {
			outage = l.failed(began, command.Err())
		}
	}
	for _, f := range answered {
		f()
	}
	if outage != nil {
		return outage
	}
	return nil
}

func failed(command redis.Cmder) bool { return command.Err() != nil }

// Run runs a script in one round trip; two where the server does not know the script
// yet. An error is an *Outage, or what Redis said of this script.
func (l *Link) Run(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
	return l.RunAlong(ctx, Guard{}, nil, script, keys, args...)
}

// RunAlong is Run, with what travels along, and its guard.
func (l *Link) RunAlong(ctx context.Context, guard Guard, along roundtrip.Batch, script *redis.Script, keys []string, args ...any) (any, error) {
	var cmd *redis.Cmd
	err := l.Exec(ctx, guard, along, func(pipe redis.Pipeliner) { cmd = script.EvalSha(ctx, pipe, keys, args...) })
	if err == nil && redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		err = l.Exec(ctx, Guard{}, nil, func(pipe redis.Pipeliner) { cmd = script.Eval(ctx, pipe, keys, args...) })
	}
	if err != nil {
		return nil, err
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
