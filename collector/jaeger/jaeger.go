//go:build tools

// Package jaeger only keeps the program's modules in go.mod.
package jaeger

import _ "github.com/jaegertracing/jaeger/cmd/jaeger"
