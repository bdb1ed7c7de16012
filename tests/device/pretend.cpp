// The device "pretend": the CPU under another name, which refuses what a GPU refuses.
//
// A tensor on it lies in the CPU's memory. Every operation runs on CPU tensors of the same memory (`run`), after
// a look at its arguments: tensors of two devices and generators of the other device raise, as they do with CUDA.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

namespace {

constexpr auto kPretend = c10::DeviceType::PrivateUse1;
const c10::Device kDevice(kPretend, 0);
const c10::DispatchKeySet kFresh{c10::DispatchKey::PrivateUse1, c10::DispatchKey::AutogradPrivateUse1};

// ---- memory

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto* owner = new c10::DataPtr(c10::GetCPUAllocator()->allocate(bytes));
    return {owner->get(), owner, [](void* held) { delete static_cast<c10::DataPtr*>(held); }, kDevice};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
Memory memory;
REGISTER_ALLOCATOR(kPretend, &memory);

// The same memory as a storage of another device; it holds the first one.
c10::Storage renamed(const c10::Storage& from, c10::Device device, c10::Allocator* allocator) {
  c10::DataPtr data(const_cast<void*>(from.data()), new c10::Storage(from),
                    [](void* held) { delete static_cast<c10::Storage*>(held); }, device);
  return {c10::Storage::use_byte_size_t(), from.nbytes(), std::move(data), allocator, true};
}

bool pretends(const at::Tensor& x) { return x.defined() && x.device().type() == kPretend; }

at::Tensor shaped(at::Tensor x, const at::Tensor& like) {
  x.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return x;
}

at::Tensor on_cpu(const at::Tensor& x) {
  const c10::DispatchKeySet keys{c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU};
  auto storage = renamed(x.storage(), c10::kCPU, c10::GetCPUAllocator());
  return shaped(at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, x.dtype()), x);
}

at::Tensor on_pretend(const at::Tensor& x) {
  auto storage = renamed(x.storage(), kDevice, &memory);
  return shaped(at::detail::make_tensor<c10::TensorImpl>(std::move(storage), kFresh, x.dtype()), x);
}

// With the keys of its base: only a view of an inference tensor is one.
at::Tensor view_of(const at::Tensor& base, const at::Tensor& like) {
  return shaped(at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(base.storage()),
                                                         base.key_set(), like.dtype()),
                like);
}

// ---- one stream, always done

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kPretend> {
  c10::Stream stream() const { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return stream(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool isStreamCapturing(const c10::Stream&) const override { return false; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// A torch built for CUDA asks CUDA's guard at the end of a backward pass; without a driver the question fails.
struct NoCuda final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::DeviceIndex deviceCount() const noexcept override { return 0; }
  bool isStreamCapturing(const c10::Stream&) const override { return false; }
};
C10_REGISTER_GUARD_IMPL(CUDA, NoCuda);

// ---- random numbers: the CPU's

struct Dice final : c10::GeneratorImpl {
  at::Generator cpu;
  explicit Dice(at::Generator cpu)
      : c10::GeneratorImpl(kDevice, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)), cpu(std::move(cpu)) {}
  void set_current_seed(uint64_t seed) override { cpu.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { cpu.set_offset(offset); }
  uint64_t get_offset() const override { return cpu.get_offset(); }
  uint64_t current_seed() const override { return cpu.current_seed(); }
  uint64_t seed() override { return cpu.seed(); }
  void set_state(const c10::TensorImpl& state) override { cpu.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return cpu.unsafeGetGeneratorImpl()->get_state();
  }
  Dice* clone_impl() const override { return new Dice(cpu.clone()); }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static at::Generator dice = at::make_generator<Dice>(at::globalContext().defaultGenerator(c10::kCPU));
    return dice;
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<Dice>(at::make_generator<at::CPUGeneratorImpl>(c10::default_rng_seed_val));
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto fresh = memory.allocate(bytes);
    std::memcpy(fresh.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr(std::move(fresh));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

// ---- operations

// Where CUDA takes a CPU tensor, too: as an index, and to copy from.
bool takes_both(const std::string& name) {
  static const std::array<const char*, 7> names{"aten::index",      "aten::index_put",         "aten::index_put_",
                                                "aten::copy_",      "aten::_index_put_impl_",  "aten::_unsafe_index",
                                                "aten::_unsafe_index_put"};
  return std::any_of(names.begin(), names.end(), [&](const char* known) { return name == known; });
}

void run(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  struct Given {
    at::Tensor own, alias;
    const void* data;
  };
  const auto& schema = op.schema();
  const auto first = stack->size() - schema.arguments().size();
  std::vector<Given> given;
  std::string stranger;  // the argument that is a CPU tensor; numbers (0 axes) may be
  bool wanted = false;   // whether the result is asked for on this device
  auto take = [&](at::Tensor x, const std::string& name) {
    if (!pretends(x)) {
      if (x.defined() && x.dim() > 0) stranger = name;
      return x;
    }
    auto alias = on_cpu(x);
    given.push_back({x, alias, alias.storage().data()});
    return alias;
  };
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    auto& value = (*stack)[first + i];
    const auto& name = schema.arguments()[i].name();
    if (value.isTensor()) {
      value = take(value.toTensor(), name);
    } else if (value.isTensorList()) {
      auto list = value.toTensorVector();
      for (auto& x : list) x = take(x, name);
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (std::optional<at::Tensor> x : value.toOptionalTensorList())
        list.push_back(x ? std::make_optional(take(*x, name)) : x);
      value = list;
    } else if (value.isDevice()) {
      wanted = value.toDevice().type() == kPretend;
      value = c10::Device(c10::kCPU);
    } else if (value.isGenerator()) {
      auto generator = value.toGenerator();
      TORCH_CHECK(generator.device().type() == kPretend, schema.name(), ": expected a generator of ", kDevice,
                  ", got one of ", generator.device());
      value = static_cast<Dice*>(generator.unsafeGetGeneratorImpl())->cpu;
    }
  }
  TORCH_CHECK(stranger.empty() || given.empty() || takes_both(schema.name()), schema.name(),
              ": expected all tensors on ", kDevice, ", got ", stranger, " on cpu");

  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);

  for (auto& g : given) {  // an `out` that was given another size
    if (g.alias.storage().data() != g.data)
      g.own.unsafeGetTensorImpl()->set_storage_keep_dtype(renamed(g.alias.storage(), kDevice, &memory));
    if (g.alias.sizes() != g.own.sizes() || g.alias.strides() != g.own.strides()) shaped(g.own, g.alias);
  }
  auto give = [&](at::Tensor x) {
    if (!x.defined() || !x.is_cpu() || (given.empty() && !wanted)) return x;
    for (auto& g : given) {
      if (x.is_same(g.alias)) return g.own;
      if (g.data && x.storage().data() == g.data) return view_of(g.own, x);
    }
    return on_pretend(x);
  };
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = give(value.toTensor());
    } else if (value.isTensorList()) {
      auto list = value.toTensorVector();
      for (auto& x : list) x = give(x);
      value = list;
    }
  }
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   dtype.value_or(at::get_default_dtype_as_scalartype()), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           dtype.value_or(at::get_default_dtype_as_scalartype()));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  (pretends(to) ? on_cpu(to) : to).copy_(pretends(from) ? on_cpu(from) : from);
  return to;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage storage) {
  const int64_t count = storage.nbytes() / self.dtype().itemsize();
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  self.unsafeGetTensorImpl()->set_sizes_contiguous(c10::IntArrayRef(&count, 1));
  self.unsafeGetTensorImpl()->set_storage_offset(0);
  return self;
}

at::Tensor& set_storage_strided(at::Tensor& self, at::Storage storage, c10::SymInt offset, c10::SymIntArrayRef size,
                                c10::SymIntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                                    offset.expect_int());
  return self;
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Storage_storage_offset", &set_storage_strided);
  // torch's own ones stop at a device that they don't know
  for (const char* name : {"convolution", "convolution_backward"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run>());
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("register_hooks", [] { at::RegisterPrivateUse1HooksInterface(new Hooks()); });
}
