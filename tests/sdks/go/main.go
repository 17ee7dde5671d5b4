// Post the calls of stdin to a data plane with the vendors' Go SDKs, as their users do; print what failed.
//
//	main URL WRITE_KEY rudder-gzip|rudder-plain|segment-plain < [["track", {"userId": …}], …]
package main

import (
	"encoding/json"
	"log"
	"os"
	"sync"
	"time"

	rudder "github.com/rudderlabs/analytics-go/v4"
	segment "github.com/segmentio/analytics-go/v3"
)

// What both SDKs have: a queue that is emptied when it is closed.
type client interface{ Close() error }

// What both SDKs report to, from goroutines of their own; closing a client ends its retries, so all is awaited first.
type reports struct {
	lock    sync.Mutex
	awaited int
	all     chan struct{}
	failed  []string
}

// RudderStack's reports a message again when it gave up before it was closed: that says nothing new.
func (r *reports) report(err error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.awaited == 0 {
		return
	}
	if err != nil {
		r.failed = append(r.failed, err.Error())
	}
	if r.awaited--; r.awaited == 0 {
		close(r.all)
	}
}

type rudderCallback struct{ *reports }

func (c rudderCallback) Success(rudder.Message)              { c.report(nil) }
func (c rudderCallback) Failure(_ rudder.Message, err error) { c.report(err) }

type segmentCallback struct{ *reports }

func (c segmentCallback) Success(segment.Message)              { c.report(nil) }
func (c segmentCallback) Failure(_ segment.Message, err error) { c.report(err) }

// call is one pair of the input: the kind, and the message in the words of the HTTP interface.
type call struct {
	kind    string
	message json.RawMessage
}

func (c *call) UnmarshalJSON(pair []byte) error {
	return json.Unmarshal(pair, &[]any{&c.kind, &c.message})
}

func read[T any](message json.RawMessage) T {
	var value T
	if err := json.Unmarshal(message, &value); err != nil {
		log.Fatal(err)
	}
	return value
}

func postWithRudder(url, key string, plain bool, calls []call, reported *reports) client {
	made, err := rudder.NewWithConfig(key, rudder.Config{
		DataPlaneUrl: url, DisableGzip: plain, BatchSize: 20, Interval: time.Second, RetryAfter: soon, Callback: rudderCallback{reported},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range calls {
		var message rudder.Message
		switch c.kind {
		case "identify":
			message = read[rudder.Identify](c.message)
		case "track":
			message = read[rudder.Track](c.message)
		case "group":
			message = read[rudder.Group](c.message)
		case "page":
			message = read[rudder.Page](c.message)
		case "screen":
			message = read[rudder.Screen](c.message)
		case "alias":
			message = read[rudder.Alias](c.message)
		}
		if err := made.Enqueue(message); err != nil {
			reported.report(err)
		}
	}
	return made
}

func postWithSegment(url, key string, calls []call, reported *reports) client {
	made, err := segment.NewWithConfig(key, segment.Config{
		Endpoint: url, BatchSize: 20, Interval: time.Second, RetryAfter: soon, Callback: segmentCallback{reported},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range calls {
		var message segment.Message
		switch c.kind {
		case "identify":
			message = read[segment.Identify](c.message)
		case "track":
			message = read[segment.Track](c.message)
		case "group":
			message = read[segment.Group](c.message)
		case "page":
			message = read[segment.Page](c.message)
		case "screen":
			message = read[segment.Screen](c.message)
		case "alias":
			message = read[segment.Alias](c.message)
		}
		if err := made.Enqueue(message); err != nil {
			reported.report(err)
		}
	}
	return made
}

// Ten attempts, a second apart or as far as RETRY_AFTER says, not within the half minute that is the default.
func soon(int) time.Duration {
	if after, err := time.ParseDuration(os.Getenv("RETRY_AFTER")); err == nil {
		return after
	}
	return time.Second
}

func main() {
	url, key, way := os.Args[1], os.Args[2], os.Args[3]
	var calls []call
	if err := json.NewDecoder(os.Stdin).Decode(&calls); err != nil {
		log.Fatal(err)
	}
	reported := &reports{awaited: len(calls), all: make(chan struct{}), failed: []string{}}
	var made client
	if way == "segment-plain" {
		made = postWithSegment(url, key, calls, reported)
	} else {
		made = postWithRudder(url, key, way == "rudder-plain", calls, reported)
	}
	<-reported.all
	if err := made.Close(); err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(reported.failed); err != nil {
		log.Fatal(err)
	}
}
