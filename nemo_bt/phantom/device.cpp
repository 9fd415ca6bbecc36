// A CUDA device that holds no data: what torch built for CPUs asks of a device, for tensors that are shapes alone.
//
// It is loaded before torch is imported, which looks for such a device once.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <map>
#include <mutex>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

// Work on the device is done at once, so streams and events have nothing to order.
struct PhantomGuard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  Device exchangeDevice(Device) const override { return getDevice(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  DeviceIndex deviceCount() const noexcept override { return 1; }

  Stream getStream(Device) const override { return Stream(Stream::UNSAFE, getDevice(), 0); }
  Stream getDefaultStream(Device device) const override { return getStream(device); }
  Stream getStreamFromGlobalPool(Device device, bool) const override { return getStream(device); }
  Stream getNewStream(Device device, int) const override { return getStream(device); }
  Stream exchangeStream(Stream stream) const override { return stream; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}

  void record(void** event, const Stream&, const DeviceIndex, const c10::EventFlag) const override { *event = nullptr; }
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
};

PhantomGuard guard;
c10::impl::DeviceGuardImplRegistrar registered_guard(DeviceType::CUDA, &guard);

// Memory of the host that counts as pinned: tensors in it answer is_pinned() with true.
struct PinnedMemory final : c10::Allocator {
  static PinnedMemory& get() {
    static PinnedMemory memory;
    return memory;
  }

  c10::DataPtr allocate(size_t size) override {
    void* start = c10::GetAllocator(DeviceType::CPU)->raw_allocate(size);
    std::lock_guard<std::mutex> lock(mutex_);
    sizes_[start] = size;
    return {start, start, &PinnedMemory::release, Device(DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &PinnedMemory::release; }
  void copy_data(void* to, const void* from, size_t size) const override { default_copy_data(to, from, size); }

  bool holds(const void* address) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto behind = sizes_.upper_bound(const_cast<void*>(address));
    if (behind == sizes_.begin()) {
      return false;
    }
    auto [start, size] = *std::prev(behind);
    return address < static_cast<const char*>(start) + size;
  }

 private:
  static void release(void* start) {
    {
      std::lock_guard<std::mutex> lock(get().mutex_);
      get().sizes_.erase(start);
    }
    c10::GetAllocator(DeviceType::CPU)->raw_deallocate(start);
  }

  std::mutex mutex_;
  std::map<void*, size_t> sizes_;
};

struct PhantomHooks : at::CUDAHooksInterface {
  explicit PhantomHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  bool isPinnedPtr(const void* address) const override { return PinnedMemory::get().holds(address); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &PinnedMemory::get(); }
};

}  // namespace

namespace at {
using CUDAHooks = ::PhantomHooks;
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at
